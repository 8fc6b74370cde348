"""Small adapters to other people's training frameworks, a file a framework."""
