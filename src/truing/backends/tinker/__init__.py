"""Tinker, or any server of its interface: its client, its engine, its trainer."""
