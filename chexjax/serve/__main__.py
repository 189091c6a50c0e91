"""`python -m chexjax.serve`."""

if __name__ == "__main__":
    from chexjax.serve.command import main

    main()
