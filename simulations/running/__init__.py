"""Runs of scripts: one, many, smaller ones, and what they tell."""
