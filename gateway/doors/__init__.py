"""Steps 1 and 11: bytes in, bytes out. Every door decodes into an Exchange and calls the same pipeline."""
