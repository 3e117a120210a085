"""Deliberately wrong plugins, each under the name of the check of the conformance kit that is meant to catch it."""
