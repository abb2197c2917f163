"""Tests of the axis rules."""
