"""Reports that a mail system makes about mail: reading them, and telling those that answer our mail from the rest.

report.read(message)           what a bounce, a delay warning or a notice says
verp.make() / verp.check()     envelope senders that prove which recipient a bounce is about
events.event() / .suppressed() what of it is recorded, and which addresses get no more mail
"""
