"""Postroom: delivery agents, policy services and bounce handlers for Postfix.

The library. Programs (agents/, spawn/, bounce/) and the command line import it; it imports neither.
This file stays empty of imports: every program that Postfix starts pays for what stands here.
"""

__version__ = "0.1.0"
