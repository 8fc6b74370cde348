def leaderboard() -> None:
    """stand-in"""
