"""The I/O round a handler: one module per way that Postfix runs a program. A handler never learns which."""
