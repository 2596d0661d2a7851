"""The version, which the build reads, too: a checkout that is not installed has one."""

__version__ = "0.1.0"
