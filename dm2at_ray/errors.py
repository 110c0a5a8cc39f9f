"""Errors that a user can mend: each is shown as one line and ends the command with exit code 2."""


class UserError(Exception):
    """Base of every error whose cause lies with the input: it names the thing, its value and the mend."""


class ConfigError(UserError):
    """A configuration field is unknown, of the wrong type, out of range, or at odds with another."""


class PoolError(UserError):
    """The pool's images or labels cannot be read, or too many of them are broken."""


class ModelError(UserError):
    """A model cannot be built, split into features and head, or given the named weights."""


class RunError(UserError):
    """A run directory cannot be used: another config, another driver, or nothing there."""


class LabelError(UserError):
    """Labels from people cannot be read, or queries cannot be given to them as was asked."""
