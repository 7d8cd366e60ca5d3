def push_to_hub() -> str:
    """x"""
