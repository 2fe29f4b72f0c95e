"""The way to the C++ core, which is loaded when text is first tokenized and not before."""

from types import ModuleType

from groundup.errors import TokenizerError


def load_core() -> ModuleType:
    """The extension module `groundup.tokenizer._native`.

    Raises:
        TokenizerError: it is not built, or was built for another Python.
    """
    try:
        from groundup.tokenizer import _native
    except ImportError as error:
        raise TokenizerError(
            f"tokenizing text needs the C++ core, which cannot be loaded ({error}); "
            "build it with: pip install .   (loading a tokenizer and decoding work without)"
        ) from error
    return _native
