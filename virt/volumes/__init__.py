"""Volumes as this host reaches them: one file for each protocol, and what they have in common."""
