"""The concurrency mode is chosen before any other import, as in the product's entry points."""

from compute import concurrency

concurrency.setup()
