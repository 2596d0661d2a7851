"""Long tests, run by hand: each file has ``main(count, seed)``, which gives figures."""
