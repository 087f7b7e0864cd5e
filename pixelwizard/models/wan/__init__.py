"""The Wan2.2 backbone as published."""
