"""Models over HTTP with OpenAI's API, and two pages: the lab, which shows runs, and a playground of the models."""
