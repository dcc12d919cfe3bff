//! What images an OCI layout or archive holds, and which of them a store has.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use nix::fcntl::OFlag;
use serde::Deserialize;

use crate::error::{Error, opening};
use crate::files::{self, LIMIT, is};

/// Images of one source.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// skopeo's word for it: `oci`, `oci-archive`, `docker-archive`.
    pub(super) transport: &'static str,
    pub(super) images: Vec<Image>,
}

/// A named image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// `registry.k8s.io/pause:3.10.1`
    pub(super) name: String,
    /// Of its manifest; docker archives do not tell.
    pub(super) digest: Option<String>,
}

/// Reads the names of all images in an OCI layout (a directory), or an OCI or Docker archive.
///
/// # Errors
/// `Images` if it is neither, has an image without a name or a name that skopeo would not take, or a path with a colon;
/// `Link` and those of reading.
pub(super) fn list(source: &Path) -> Result<Source, Error> {
    let failed = |reason: &str| Error::Images { path: source.to_owned(), reason: reason.to_owned() };
    if source.to_str().is_none_or(|path| path.contains([':', ','])) {
        return Err(failed("its path holds a colon or comma"));
    }
    let stat = files::stat(source)?.ok_or_else(|| failed("there is nothing"))?;
    let (transport, images) = if is(&stat, nix::sys::stat::SFlag::S_IFDIR) {
        let index =
            files::read(&source.join("index.json"), LIMIT)?.ok_or_else(|| failed("it has no index.json"))?;
        ("oci", index_names(&index.bytes))
    } else {
        let member =
            archive_index(source)?.ok_or_else(|| failed("it has neither index.json nor manifest.json"))?;
        match member {
            Member::Index(bytes) => ("oci-archive", index_names(&bytes)),
            Member::Manifest(bytes) => ("docker-archive", manifest_names(&bytes)),
        }
    };
    let images =
        images.ok_or_else(|| failed("its list of images cannot be read, or an image has no name"))?;
    match images.iter().find(|image| !is_name(&image.name)) {
        Some(image) => Err(failed(&format!("{:?} is no image name", image.name))),
        None => Ok(Source { transport, images }),
    }
}

/// What a reference may hold: nothing of it could be an option or another transport.
fn is_name(name: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || "._-/:@".contains(char);
    name.len() <= 512
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(plain)
}

/// Source: OCI image layout, "index.json"; pre-defined annotation `org.opencontainers.image.ref.name`.
fn index_names(bytes: &[u8]) -> Option<Vec<Image>> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }
    #[derive(Deserialize)]
    struct Descriptor {
        digest: String,
        #[serde(default)]
        annotations: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(bytes).ok()?;
    let image = |mut descriptor: Descriptor| {
        let name = descriptor.annotations.remove("org.opencontainers.image.ref.name")?;
        Some(Image { name, digest: Some(descriptor.digest) })
    };
    index.manifests.into_iter().map(image).collect()
}

/// Source: `docker save`: an array of objects with `RepoTags`.
fn manifest_names(bytes: &[u8]) -> Option<Vec<Image>> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "RepoTags")]
        tags: Option<Vec<String>>,
    }
    let entries: Vec<Entry> = serde_json::from_slice(bytes).ok()?;
    let tags: Option<Vec<Vec<String>>> = entries.into_iter().map(|entry| entry.tags).collect();
    Some(tags?.into_iter().flatten().map(|name| Image { name, digest: None }).collect())
}

/// A name as the store keeps it: Docker's short names mean its own registry.
///
/// Source: distribution/reference, `splitDockerDomain`.
pub(super) fn qualified(name: &str) -> String {
    match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some((domain, _)) if domain.contains(['.', ':']) || domain == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    }
}

#[derive(Debug)]
enum Member {
    Index(Vec<u8>),
    Manifest(Vec<u8>),
}

/// Blocks of a tar archive, bytes. Source: tar(5).
const BLOCK: usize = 512;

/// The most members that are looked at.
const MOST: u32 = 100_000;

/// Finds the list of images among the members of an uncompressed archive; an OCI index wins.
fn archive_index(path: &Path) -> Result<Option<Member>, Error> {
    let fd = files::open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC);
    let mut file = File::from(fd.map_err(|errno| opening(path, errno))?);
    let failed = |source| Error::Read { path: path.to_owned(), source };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::NotRegular { path: path.to_owned() });
    }
    index_in(&mut file, path)
}

fn index_in<R: Read + Seek>(file: &mut R, path: &Path) -> Result<Option<Member>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut manifest = None;
    for _ in 0..MOST {
        let mut header = [0; BLOCK];
        let Ok(()) = file.read_exact(&mut header) else { break };
        let Some((name, size)) = member(&header) else { break };
        let wanted = matches!(name.trim_start_matches("./"), "index.json" | "manifest.json");
        let padded = size.next_multiple_of(BLOCK as u64);
        if !wanted {
            file.seek(SeekFrom::Current(i64::try_from(padded).unwrap_or(i64::MAX))).map_err(failed)?;
            continue;
        }
        if padded > LIMIT {
            return Err(Error::TooLarge { path: path.to_owned(), limit: LIMIT });
        }
        let mut bytes = Vec::new();
        file.by_ref().take(padded).read_to_end(&mut bytes).map_err(failed)?;
        bytes.truncate(usize::try_from(size).unwrap_or(0));
        if name.ends_with("index.json") {
            return Ok(Some(Member::Index(bytes)));
        }
        manifest = Some(Member::Manifest(bytes));
    }
    Ok(manifest)
}

/// Name and size of a member; `None` at the end of the archive or where it is none.
fn member(header: &[u8; BLOCK]) -> Option<(String, u64)> {
    let field = |range: std::ops::Range<usize>| {
        let bytes = header.get(range).unwrap_or_default();
        String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
    };
    if field(257..262) != "ustar" {
        return None;
    }
    let size = u64::from_str_radix(field(124..136).trim(), 8).ok()?;
    Some((field(0..100), size))
}

/// Names and digests that a store has.
#[derive(Debug, Default)]
pub(super) struct Stored {
    names: BTreeSet<String>,
    pairs: BTreeSet<(String, String)>,
}

impl Stored {
    pub(super) fn has(&self, image: &Image) -> bool {
        let name = qualified(&image.name);
        match &image.digest {
            Some(digest) => self.pairs.contains(&(name, digest.clone())),
            None => self.names.contains(&name),
        }
    }
}

/// Reads a store's index. What cannot be understood is an empty store: then images are copied anew, which does no harm.
pub(super) fn stored(index: &[u8]) -> Stored {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        names: Option<Vec<String>>,
        #[serde(default)]
        digest: String,
    }
    let entries: Vec<Entry> = serde_json::from_slice(index).unwrap_or_default();
    let mut stored = Stored::default();
    for entry in entries {
        for name in entry.names.unwrap_or_default() {
            stored.pairs.insert((name.clone(), entry.digest.clone()));
            stored.names.insert(name);
        }
    }
    stored
}

/// An archive, or a list of images: a name that is taken is no option, no path of the host and no other transport.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let member = index_in(&mut std::io::Cursor::new(data), Path::new("images.tar"));
    let lists = match &member {
        Ok(Some(Member::Index(bytes))) => [index_names(bytes), None],
        Ok(Some(Member::Manifest(bytes))) => [manifest_names(bytes), None],
        _ => [index_names(data), manifest_names(data)],
    };
    let has = stored(data);
    for image in lists.into_iter().flatten().flatten().filter(|image| is_name(&image.name)) {
        assert!(!image.name.starts_with(['-', '/', '.']) && !image.name.contains(char::is_control));
        assert!(qualified(&image.name).ends_with(&image.name));
        let _ = has.has(&image);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const INDEX: &str = r#"{"schemaVersion":2,"manifests":[
        {"digest":"sha256:aa","size":1,"annotations":{"org.opencontainers.image.ref.name":"registry.k8s.io/pause:3.10.1"}},
        {"digest":"sha256:bb","size":1,"annotations":{"org.opencontainers.image.ref.name":"localhost/x@sha256:cc"}}]}"#;

    fn tar(members: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, text) in members {
            let mut header = [0; BLOCK];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..135].copy_from_slice(format!("{:011o}", text.len()).as_bytes());
            header[257..262].copy_from_slice(b"ustar");
            archive.extend(header);
            archive.extend(text.as_bytes());
            archive.resize(archive.len().next_multiple_of(BLOCK), 0);
        }
        archive.resize(archive.len() + 2 * BLOCK, 0);
        archive
    }

    fn names(source: &Source) -> Vec<&str> {
        source.images.iter().map(|image| image.name.as_str()).collect()
    }

    #[test]
    fn a_layout_and_both_kinds_of_archives_tell_their_images() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("index.json"), INDEX).unwrap();
        let layout = list(dir.path()).unwrap();
        assert_eq!((layout.transport, names(&layout).len()), ("oci", 2));
        assert_eq!(layout.images[0].digest.as_deref(), Some("sha256:aa"));
        let path = dir.path().join("oci.tar");
        fs::write(
            &path,
            tar(&[("blobs/sha256/aa", "x"), ("./manifest.json", "[]"), ("./index.json", INDEX)]),
        )
        .unwrap();
        let archive = list(&path).unwrap();
        assert_eq!((archive.transport, archive.images), ("oci-archive", layout.images));
        let docker = r#"[{"Config":"c","RepoTags":["localhost/a:1","localhost/b:2"],"Layers":[]}]"#;
        fs::write(&path, tar(&[("manifest.json", docker)])).unwrap();
        let archive = list(&path).unwrap();
        assert_eq!(
            (archive.transport, names(&archive)),
            ("docker-archive", vec!["localhost/a:1", "localhost/b:2"])
        );
    }

    #[test]
    fn what_is_no_source_of_images_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| list(path).unwrap_err().to_string();
        assert!(refused(dir.path()).ends_with("it has no index.json"));
        assert!(refused(&dir.path().join("none")).ends_with("there is nothing"));
        let path = dir.path().join("a.tar");
        for bytes in [Vec::new(), vec![b'x'; 5000], tar(&[("other", "")])] {
            fs::write(&path, bytes).unwrap();
            assert!(refused(&path).ends_with("it has neither index.json nor manifest.json"));
        }
        fs::write(&path, tar(&[("index.json", r#"{"manifests":[{"digest":"sha256:aa"}]}"#)])).unwrap();
        assert!(refused(&path).contains("an image has no name"));
        fs::write(&path, tar(&[("index.json", &INDEX.replace("localhost/x", "--all"))])).unwrap();
        assert!(refused(&path).ends_with("is no image name"));
        let colon = dir.path().join("a:b");
        assert!(refused(&colon).ends_with("its path holds a colon or comma"));
    }

    #[test]
    fn an_image_is_there_only_under_the_same_name_and_digest() {
        let index = br#"[{"id":"1","digest":"sha256:aa","names":["registry.k8s.io/pause:3.10.1"]},{"id":"2","names":null}]"#;
        let stored = stored(index);
        let image = |digest: Option<&str>| Image {
            name: "registry.k8s.io/pause:3.10.1".into(),
            digest: digest.map(str::to_owned),
        };
        assert!(stored.has(&image(Some("sha256:aa"))) && stored.has(&image(None)));
        assert!(!stored.has(&image(Some("sha256:bb"))));
        assert!(
            super::stored(br#"[{"names":["docker.io/library/alpine:3"]}]"#)
                .has(&Image { name: "alpine:3".into(), digest: None })
        );
        assert!(!super::stored(b"garbage").has(&image(None)));
    }
}
