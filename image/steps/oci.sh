# Sourced by scripts/image: the root folder as an OCI image (image-spec 1.0): oci-layout, index.json, and three kinds of blobs.

# blob FILE: moves it to where its name is its hash; prints `"digest": ..., "size": ...` for whoever refers to it.
blob() {
  local digest size
  digest=$(sha256sum "$1" | cut -d ' ' -f 1)
  size=$(stat -c %s "$1")
  mv "$1" "$layout/blobs/sha256/$digest"
  printf '"digest": "sha256:%s", "size": %s' "$digest" "$size"
}

# oci_layout FOLDER ROOTFS
oci_layout() {
  local rootfs=$2 content=$work/container layer unpacked config manifest created
  layout=$1.new
  rm -rf "$layout" "$content"
  mkdir -p "$layout/blobs/sha256"
  cp -a "$rootfs" "$content"
  # The loader, the partitions and the mounts are the host's.
  cp image/container/upgrade.toml "$content/etc/vestal/upgrade.toml"
  rm -f "$content/etc/fw_env.config" "$content/etc/fstab"
  rm -rf "$content/lib/modules"
  install -D -m 755 "image/app/start" "$content/var/lib/vestal/slots/application-a/start"
  settle "$content"
  chmod 1777 "$content/tmp"
  created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)

  tar -C "$content" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" --format=gnu -cf "$work/layer.tar" .
  unpacked=$(sha256sum "$work/layer.tar" | cut -d ' ' -f 1)
  gzip -9nf "$work/layer.tar"
  layer=$(blob "$work/layer.tar.gz")
  cat > "$work/config.json" <<JSON
{"created": "$created", "architecture": "amd64", "os": "linux",
 "config": {"Entrypoint": ["/sbin/init"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "container=oci"], "StopSignal": "SIGTERM",
  "Labels": {"org.opencontainers.image.version": "$version"}},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$unpacked"]}, "history": [{"created": "$created", "created_by": "scripts/image"}]}
JSON
  config=$(blob "$work/config.json")
  cat > "$work/manifest.json" <<JSON
{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
 "config": {"mediaType": "application/vnd.oci.image.config.v1+json", $config},
 "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", $layer}]}
JSON
  manifest=$(blob "$work/manifest.json")
  cat > "$layout/index.json" <<JSON
{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
 "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", $manifest,
  "platform": {"architecture": "amd64", "os": "linux"}, "annotations": {"org.opencontainers.image.ref.name": "$version"}}]}
JSON
  echo '{"imageLayoutVersion": "1.0.0"}' > "$layout/oci-layout"
  rm -rf "$1" "$content"
  mv "$layout" "$1"
}
