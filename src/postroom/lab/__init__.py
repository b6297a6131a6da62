"""The lab: a private Postfix and a real name server on loopback, to see the programs at work."""
