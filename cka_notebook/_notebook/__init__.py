"""The notebook around an explorer: cells, variables, front ends."""
