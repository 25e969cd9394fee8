//! A Debian package of the real tailscaled and tailscale, so that they are installed, removed and enabled as a person would do it. Shaped as
//! Tailscale's own package: same file names, same manners of the unit.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::layout::Workspace;
use super::{ImageError, Store, file_error, mark, run};

/// For any architecture as far as dpkg is concerned: what is in it is of the machine that built it, and goes nowhere else.
const CONTROL: &str = "Package: tailscale\n\
    Version: 1.0-lab\n\
    Architecture: all\n\
    Maintainer: devbox-lab <lab@localhost>\n\
    Description: tailscaled and tailscale as the lab built them\n";

/// tailscaled tells systemd when it is ready, cleans up rules and routes after itself, and keeps its state where nobody else can read.
const UNIT: &str = "[Unit]\n\
    Description=Tailscale node\n\
    Wants=network-pre.target\n\
    After=network-pre.target NetworkManager.service systemd-resolved.service\n\
    \n\
    [Service]\n\
    Type=notify\n\
    EnvironmentFile=/etc/default/tailscaled\n\
    ExecStart=/usr/sbin/tailscaled --state=/var/lib/tailscale/tailscaled.state --socket=/run/tailscale/tailscaled.sock --port=${PORT} $FLAGS\n\
    ExecStopPost=/usr/sbin/tailscaled --cleanup\n\
    Restart=on-failure\n\
    RuntimeDirectory=tailscale\n\
    RuntimeDirectoryMode=0755\n\
    StateDirectory=tailscale\n\
    StateDirectoryMode=0700\n\
    CacheDirectory=tailscale\n\
    CacheDirectoryMode=0750\n\
    \n\
    [Install]\n\
    WantedBy=multi-user.target\n";

/// The port and flags of Tailscale's own file, and the lab: never the real control plane or log server, and plain HTTP for Headscale's
/// embedded DERP.
const DEFAULTS: &str = "PORT=\"41641\"\n\
    FLAGS=\"\"\n\
    TS_PANIC_IF_HIT_MAIN_CONTROL=true\n\
    TS_NO_LOGS_NO_SUPPORT=true\n\
    TS_DEBUG_USE_DERP_HTTP=true\n";

/// Enables the unit, and starts it where systemd runs, as Debian's helpers do.
const AFTER_INSTALL: &str = "#!/bin/sh\n\
    set -e\n\
    if [ \"$1\" = configure ]; then\n    \
        deb-systemd-helper unmask tailscaled.service >/dev/null || true\n    \
        if deb-systemd-helper --quiet was-enabled tailscaled.service; then\n        \
            deb-systemd-helper enable tailscaled.service >/dev/null\n    \
        fi\n    \
        if [ -d /run/systemd/system ]; then\n        \
            systemctl --system daemon-reload >/dev/null\n        \
            deb-systemd-invoke restart tailscaled.service >/dev/null\n    \
        fi\n\
    fi\n";

const BEFORE_REMOVAL: &str = "#!/bin/sh\n\
    set -e\n\
    if [ -d /run/systemd/system ] && [ \"$1\" = remove ]; then\n    \
        deb-systemd-invoke stop tailscaled.service >/dev/null\n\
    fi\n";

/// State goes only when the package is purged.
const AFTER_REMOVAL: &str = "#!/bin/sh\n\
    set -e\n\
    if [ -d /run/systemd/system ]; then\n    \
        systemctl --system daemon-reload >/dev/null\n\
    fi\n\
    if [ \"$1\" = remove ]; then\n    \
        deb-systemd-helper mask tailscaled.service >/dev/null\n\
    fi\n\
    if [ \"$1\" = purge ]; then\n    \
        deb-systemd-helper purge tailscaled.service >/dev/null\n    \
        deb-systemd-helper unmask tailscaled.service >/dev/null\n    \
        rm -rf /var/lib/tailscale\n\
    fi\n";

const FILES: [(&str, &str, u32); 7] = [
    ("DEBIAN/control", CONTROL, 0o644),
    ("DEBIAN/conffiles", "/etc/default/tailscaled\n", 0o644),
    ("DEBIAN/postinst", AFTER_INSTALL, 0o755),
    ("DEBIAN/prerm", BEFORE_REMOVAL, 0o755),
    ("DEBIAN/postrm", AFTER_REMOVAL, 0o755),
    ("usr/lib/systemd/system/tailscaled.service", UNIT, 0o644),
    ("etc/default/tailscaled", DEFAULTS, 0o644),
];
const PROGRAMS: [(&str, &str); 2] = [("tailscaled", "usr/sbin/tailscaled"), ("tailscale", "usr/bin/tailscale")];

/// The package with the programs as they are in the lab's folder now.
pub(super) fn package(workspace: &Workspace, store: &Store<'_>) -> Result<PathBuf, ImageError> {
    let mut key = FILES.map(|(_, text, _)| text.to_owned()).to_vec();
    for (program, _) in PROGRAMS {
        key.push(mark(&workspace.programs().join(program))?);
    }
    let key: Vec<&str> = key.iter().map(String::as_str).collect();
    store.ensure("tailscale", &key, "packing Tailscale", |file| {
        let tree = tempfile::tempdir_in(&store.folder).map_err(file_error(&store.folder))?;
        fill(tree.path(), &workspace.programs()).map_err(file_error(tree.path()))?;
        let mut command = Command::new("dpkg-deb");
        // Uncompressed: it is unpacked as often as it is packed.
        command.args(["--build", "--root-owner-group", "-Znone"]).arg(tree.path()).arg(file);
        run("pack Tailscale", command)
    })
}

fn fill(tree: &Path, programs: &Path) -> io::Result<()> {
    fs::set_permissions(tree, Permissions::from_mode(0o755))?;
    for (path, text, mode) in FILES {
        fs::write(made(tree, path)?, text)?;
        fs::set_permissions(tree.join(path), Permissions::from_mode(mode))?;
    }
    for (program, path) in PROGRAMS {
        fs::copy(programs.join(program), made(tree, path)?)?;
        fs::set_permissions(tree.join(path), Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Where a file of the tree goes, with the folders above it there.
fn made(tree: &Path, path: &str) -> io::Result<PathBuf> {
    let path = tree.join(path);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    Ok(path)
}
