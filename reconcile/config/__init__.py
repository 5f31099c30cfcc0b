"""Configuration: file, environment, flags → one frozen Settings."""
