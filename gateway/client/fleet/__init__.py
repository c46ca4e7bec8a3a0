"""Scripted lives over real clients: load, demonstrations and end-to-end tests without a phone."""
