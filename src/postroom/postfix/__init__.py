"""Postfix itself: its commands, its files as text, a private instance, pipe(8)'s judgement of a program."""
