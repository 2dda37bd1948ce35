"""What says that shared quotas cannot be asked; apart, so that it can be caught without the client library."""


class Away(Exception):
    """The server does not answer in time, or is known not to."""
