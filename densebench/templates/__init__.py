"""The files that `densebench new` writes: one of each kind, complete and runnable, with the name `mine`, the class `Mine`."""
