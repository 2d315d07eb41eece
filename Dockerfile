# The page (docs/web.md): docker build -t phosphene-web . && docker run -p 7860:7860 phosphene-web
FROM python:3.11-slim

# Where a smaller build of PyTorch without CUDA lies, if that is wanted: --build-arg TORCH_INDEX=<address>.
ARG TORCH_INDEX=""
WORKDIR /app
COPY pyproject.toml README.md LICENSE constraints-web.txt ./
COPY src src
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint constraints-web.txt '.[web]' \
    && useradd --create-home --uid 1000 page
USER page
WORKDIR /home/page
EXPOSE 7860
HEALTHCHECK --start-period=60s CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"
# Others reach a container only from outside of its loopback.
CMD ["phosphene", "web", "--host", "0.0.0.0", "--port", "7860"]
