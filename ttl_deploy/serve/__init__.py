"""An artifact behind HTTP: the KServe v2 protocol, a plain `/predict`, metrics, and limits that keep the server up.

FastAPI, uvicorn and prometheus-client (extra `serve`) are imported when a server is made; torch never is. Also here:
the Triton model repository, the same artifact behind NVIDIA's server.
"""
