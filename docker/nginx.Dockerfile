# The image of the front: nginx with our configuration, no root.
#
#     docker build -f docker/nginx.Dockerfile -t revenant-nginx .
#
# It expects its instances on 127.0.0.1, as in --network host; elsewhere mount another folder on
# /etc/nginx/site, as compose.yaml does. Any nginx from 1.22.1 will do.

ARG NGINX_IMAGE=nginx:stable

FROM ${NGINX_IMAGE} AS folder
WORKDIR /folder

FROM ${NGINX_IMAGE}
COPY nginx/*.conf /etc/nginx/
COPY nginx/site/*.conf docker/site/log.conf /etc/nginx/site/
# Everything nginx writes: pid and temporary files. In a read-only container, a tmpfs.
COPY --from=folder --chown=65532:65532 /folder /run/nginx
USER 65532:65532
EXPOSE 3333

# QUIT lets requests end; TERM, the usual signal, cuts them.
STOPSIGNAL SIGQUIT
ENTRYPOINT ["nginx", "-e", "stderr", "-p", "/run/nginx", "-c", "/etc/nginx/production.conf", "-g", "daemon off;"]
CMD []
