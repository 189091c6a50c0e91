"""`chexjax self-test`: `checks` computes and compares, `stored/` holds what it compares with."""
