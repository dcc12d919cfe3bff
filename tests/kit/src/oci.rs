//! An OCI image layout, written without a container engine: one layer of files for each image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::Error;
use crate::hash::{HashWriter, sha256};

/// One entry of an image's file system.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    /// A copy of a file of this machine, with the mode given.
    File(PathBuf, u32),
    /// A symbolic link with this target.
    Link(String),
    /// A file (0644) of this text.
    Text(String),
    /// An empty directory with this mode.
    Dir(u32),
}

/// The files of an image by their path without the leading slash; parents are made as needed, all is root's.
pub(crate) type Files = BTreeMap<String, Entry>;

/// A layout that is being written.
pub(crate) struct Layout {
    blobs: PathBuf,
    root: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    pub(crate) fn create(root: &Path) -> Result<Self, Error> {
        let blobs = root.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(Error::file("making", &blobs))?;
        Ok(Self { blobs, root: root.to_path_buf(), manifests: Vec::new() })
    }

    /// Adds an image under its full name, which is what `skopeo copy oci:DIR:NAME` looks up.
    pub(crate) fn image(&mut self, name: &str, files: &Files, entrypoint: &[&str]) -> Result<(), Error> {
        let (layer, layer_size) = self.layer(files)?;
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": entrypoint, "Env": [path] },
            "rootfs": { "type": "layers", "diff_ids": [layer] },
        });
        let (config, config_size) = self.blob(config.to_string().as_bytes())?;
        let media = "application/vnd.oci.image";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": format!("{media}.manifest.v1+json"),
            "config": { "mediaType": format!("{media}.config.v1+json"), "digest": config, "size": config_size },
            "layers": [{ "mediaType": format!("{media}.layer.v1.tar"), "digest": layer, "size": layer_size }],
        });
        let (digest, size) = self.blob(manifest.to_string().as_bytes())?;
        self.manifests.push(json!({
            "mediaType": format!("{media}.manifest.v1+json"),
            "digest": digest,
            "size": size,
            "annotations": { "org.opencontainers.image.ref.name": name },
        }));
        Ok(())
    }

    /// Writes the index; without it the directory is no layout.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let index = json!({ "schemaVersion": 2, "manifests": self.manifests });
        write(&self.root.join("index.json"), index.to_string().as_bytes())?;
        write(&self.root.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)
    }

    fn blob(&self, bytes: &[u8]) -> Result<(String, u64), Error> {
        let digest = sha256(bytes);
        write(&self.blobs.join(&digest), bytes)?;
        Ok((format!("sha256:{digest}"), bytes.len() as u64))
    }

    fn layer(&self, files: &Files) -> Result<(String, u64), Error> {
        let part = self.blobs.join("part");
        let file = File::create(&part).map_err(Error::file("writing", &part))?;
        let mut tar = Builder::new(HashWriter::new(BufWriter::new(file)));
        tar.follow_symlinks(true);
        append_all(&mut tar, files)?;
        let sink = tar.into_inner().map_err(Error::file("writing", &part))?;
        let (digest, size, mut file) = sink.finish();
        file.flush().map_err(Error::file("writing", &part))?;
        fs::rename(&part, self.blobs.join(&digest)).map_err(Error::file("renaming", &part))?;
        Ok((format!("sha256:{digest}"), size))
    }
}

fn append_all<W: Write>(tar: &mut Builder<W>, files: &Files) -> Result<(), Error> {
    let mut made = BTreeSet::new();
    for (path, entry) in files {
        let parents: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        for parent in parents.into_iter().rev().filter(|parent| !parent.as_os_str().is_empty()) {
            let given = files.contains_key(parent.to_string_lossy().as_ref());
            if made.insert(parent.to_path_buf()) && !given {
                append(tar, &parent.to_string_lossy(), &Entry::Dir(0o755))?;
            }
        }
        append(tar, path, entry)?;
    }
    Ok(())
}

fn append<W: Write>(tar: &mut Builder<W>, path: &str, entry: &Entry) -> Result<(), Error> {
    let mut header = Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_mode(0o644);
    header.set_size(0);
    let done = match entry {
        Entry::File(source, mode) => {
            let file = File::open(source).map_err(Error::file("reading", source))?;
            let size = file.metadata().map_err(Error::file("reading", source))?.len();
            header.set_mode(*mode);
            header.set_size(size);
            tar.append_data(&mut header, path, file)
        }
        Entry::Text(text) => {
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, path, text.as_bytes())
        }
        Entry::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, path, target)
        }
        Entry::Dir(mode) => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(*mode);
            tar.append_data(&mut header, format!("{path}/"), std::io::empty())
        }
    };
    done.map_err(Error::file("adding to an image", path))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(Error::file("writing", path))
}

/// OCI names architectures as Go does.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_holds_its_image() {
        let dir = tempfile::tempdir().unwrap();
        let mut layout = Layout::create(dir.path()).unwrap();
        let files = Files::from([
            ("tmp".into(), Entry::Dir(0o1777)),
            ("etc/deep/hello".into(), Entry::Text("hi".into())),
            ("bin".into(), Entry::Link("usr/bin".into())),
        ]);
        layout.image("test.local/x:1", &files, &["/x"]).unwrap();
        layout.finish().unwrap();
        let index: Value = serde_json::from_slice(&fs::read(dir.path().join("index.json")).unwrap()).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
        let manifest: Value = serde_json::from_slice(&fs::read(dir.path().join(digest)).unwrap()).unwrap();
        let layer = manifest["layers"][0]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
        let mut tar = tar::Archive::new(File::open(dir.path().join(layer)).unwrap());
        let list = |entry: tar::Entry<'_, File>| {
            (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap())
        };
        let seen: Vec<_> = tar.entries().unwrap().map(|entry| list(entry.unwrap())).collect();
        let wanted = [
            ("bin", 0o777),
            ("etc/", 0o755),
            ("etc/deep/", 0o755),
            ("etc/deep/hello", 0o644),
            ("tmp/", 0o1777),
        ];
        assert_eq!(seen, wanted.map(|(path, mode)| (path.to_string(), mode)));
    }
}
