"""Postfix itself: its commands, its configuration files as text, a private instance, and pipe(8)'s judgement of a program."""
