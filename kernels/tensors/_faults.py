"""What is wrong with a JSON text: RapidJSON's messages, which clients of Triton know.

A position is the byte offset of the token that is wrong (Triton's point a few bytes further on).
"""

from typing import Final

EMPTY: Final = "The document is empty."
AFTER_ROOT: Final = "The document root must not be followed by other values."
VALUE: Final = "Invalid value."
NO_NAME: Final = "Missing a name for object member."
NO_COLON: Final = "Missing a colon after a name of object member."
NO_COMMA_OBJECT: Final = "Missing a comma or '}' after an object member."
NO_COMMA_ARRAY: Final = "Missing a comma or ']' after an array element."
DUPLICATE: Final = "Duplicate name of an object member."
NO_FRACTION: Final = "Miss fraction part in number."
NO_EXPONENT: Final = "Miss exponent in number."
NO_QUOTE: Final = "Missing a closing quotation mark in string."
ENCODING: Final = "Invalid encoding in string."
ESCAPE: Final = "Invalid escape character in string."
NO_HEX: Final = "Incorrect hex digit after \\u escape in string."
SURROGATE: Final = "The surrogate pair in string is invalid."

CODES: Final = (
    "",
    EMPTY,
    AFTER_ROOT,
    VALUE,
    NO_NAME,
    NO_COLON,
    NO_COMMA_OBJECT,
    NO_COMMA_ARRAY,
    DUPLICATE,
    NO_FRACTION,
    NO_EXPONENT,
    NO_QUOTE,
    ENCODING,
    ESCAPE,
    NO_HEX,
    SURROGATE,
)
"""By the number that the C++ twins use inside (`_tokens.pxd`); 0 is none."""

MAX_DEPTH: Final = 1000
"""Most containers within each other that any caller may ask for: the C++ twins keep stacks of that size."""


def fault(reason: str, position: int) -> ValueError:
    """The error for the token at this byte."""
    return ValueError(f"{reason} at {position}")
