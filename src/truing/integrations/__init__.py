"""The monitor in other people's loops."""
