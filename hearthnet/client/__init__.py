"""Calls nodes the way nodes call each other: signed, each answer proven to be that node's, over httpx."""

from hearthnet.client.client import Client

__all__ = ["Client"]
