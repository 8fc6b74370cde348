"""The files that `densebench new` writes: one of each kind, complete and runnable, with the name `mine` (and the class `Mine`)."""
