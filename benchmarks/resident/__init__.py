"""Starting the resident and its peers, loading them, and measuring what they use."""
