"""Instances without whom they are of: PS3.15 Annex E, Basic Application Level Confidentiality Profile."""
