"""Signatures of requests and answers, replays, who may read what."""
