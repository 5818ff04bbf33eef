"""The door for anybody's tables: read as they come, audited, told in words. Nothing here imports torch."""
