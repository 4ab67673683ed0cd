# polar-raw from these sources, without compilers in the image that runs:
#   docker build -t polar-raw .
#   docker run -p 30000:30000 -v "$PWD/model:/model:ro" polar-raw serve --model /model --host 0.0.0.0 --api-key-env KEY
# For a card add `--gpus all`: the driver comes from the host, and nothing of CUDA is needed in the image.
# tools/image/try runs these steps where there is no engine.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked
RUN install -D -t /out target/release/polar-raw target/release/deps/libemulator.so

FROM debian:bookworm-slim
COPY --from=build /out/ /usr/local/bin/
RUN polar-raw --version && useradd --create-home --uid 1000 polar
USER polar
WORKDIR /home/polar
EXPOSE 30000
ENTRYPOINT ["polar-raw"]
