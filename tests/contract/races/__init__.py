"""Races, each in both orders where there are two: docs/internals/races.md lists them all."""
