"""Conversations as text: their rows, chat templates in Jinja, and the process that renders them.

``conversations`` reads rows of several shapes, ``templates`` finds a template, ``rendering`` renders it in the process
``worker``, and ``reading`` makes the documents that `groundup encode` takes.
"""
