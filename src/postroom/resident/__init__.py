"""`postroom serve`: the handlers of all programs in one service, without a process for every mail."""
