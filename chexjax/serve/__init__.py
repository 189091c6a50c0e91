"""A service: films in over HTTP or DICOM, findings out as JSON, pictures, or DICOM results in an archive.

    chexjax serve --checkpoint=WORKDIR --port=8000

Nothing is written to disk. The names of this package need no extra; what does (`chexjax[serve]`) is loaded on use.

- `command`: the command line, and the life of the process from loading to SIGTERM.
- `service`: what happens to a film, whichever door it came through; `batching`: films that wait together go through the
  networks together.
- `app`: the routes; `guard`: who may ask, and what is logged; `page`: the web page; `answers`: the form of the JSON;
  `multipart`: bodies of several parts; `metrics`: what Prometheus reads.
- `instances`: a DICOM film in, its results to every archive; `dicomweb`: STOW-RS, both ways; `dicom_port`: C-STORE,
  both ways.
"""
