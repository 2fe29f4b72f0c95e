"""Text as UTF-8, whatever it was before."""


def utf8(text: str) -> bytes:
    """The text as it is encoded: a lone surrogate becomes U+FFFD, a pair of them the character they stand for."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
