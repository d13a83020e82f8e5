# A node for Kind from Debian's packages (the base, made by debootstrap) and Go modules. The files under kind/ are those of
# Kind's own base image, taken from its module. Scores for the kernel's out-of-memory killer are not lowered, which takes a
# capability (CAP_SYS_RESOURCE) that root does not have everywhere.
FROM egresslab/airgap-node-base
ARG PAUSE
COPY kind/ /
COPY programs/kubeadm programs/kubelet programs/kubectl /usr/bin/
COPY manifests/default-cni.yaml /kind/manifests/default-cni.yaml
COPY version /kind/version
RUN find /lib/systemd/system/sysinit.target.wants -name systemd-tmpfiles-setup.service -delete \
 && rm -f /lib/systemd/system/multi-user.target.wants/* /etc/systemd/system/*.wants/* \
      /lib/systemd/system/local-fs.target.wants/* /lib/systemd/system/basic.target.wants/* \
      /lib/systemd/system/sockets.target.wants/*udev* /lib/systemd/system/sockets.target.wants/*initctl* \
 && echo ReadKMsg=no >> /etc/systemd/journald.conf \
 && chmod 0755 /usr/local/bin/* /kind/bin/* \
 && ln -sf /usr/bin/containerd /usr/bin/ctr /usr/local/bin/ \
 && mkdir -p /opt/cni/bin /etc/kubernetes/manifests \
 && ln -sf /usr/lib/cni/* /opt/cni/bin/ \
 && sed -i "s#^ *sandbox_image = .*#  sandbox_image = \"$PAUSE\"#" /etc/containerd/config.toml \
 && sed -i 's/^ *restrict_oom_score_adj = .*/  restrict_oom_score_adj = true/' /etc/containerd/config.toml \
 && sed -i 's/^OOMScoreAdjust=.*/OOMScoreAdjust=0/' /etc/systemd/system/containerd.service \
 && ctr oci spec | jq '.hooks.createContainer |= . + [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' \
      > /etc/containerd/cri-base.json \
 && systemctl enable kubelet.service containerd.service undo-mount-hacks.service \
 && systemctl mask systemd-binfmt.service
ENV container=docker
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]
