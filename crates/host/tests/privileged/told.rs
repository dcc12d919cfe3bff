//! Files that root is told to read, in places where another user says what is what.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use libtest_mimic::{Failed, Trial};
use u7s_host::enter::{Author, Entry, Kept, Output, read_argument};
use u7s_host::{Error, enter, probe};
use u7s_plan::facts::UserFact;

use super::{ID, Place, check};

/// What only root may read, in `kept/secret`.
const SECRET: &str = "the secret\n";

pub(super) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("a_link_planted_as_a_patch_gives_no_file_of_roots_away", planted_patch),
        Trial::test("a_link_planted_as_config_gives_no_file_of_roots_away", planted_config),
        Trial::test("a_link_of_roots_to_a_link_that_the_user_may_change_is_not_followed", by_a_detour),
        Trial::test("links_of_the_administrators_and_plain_files_of_the_user_are_read", kept_ways),
        Trial::test("whose_word_a_document_is_follows_who_can_write_it_or_above_it", authors),
        Trial::test("what_a_document_of_the_users_names_is_read_as_the_user", named_inside),
        Trial::test("patches_that_a_document_of_the_users_names_are_copied_as_the_user", copied_inside),
        Trial::test("a_link_in_place_of_etcd_gives_no_keys_of_roots_away", planted_etcd),
        Trial::test(
            "f13_nothing_but_kubeadms_files_comes_out_of_a_directory_of_certificates",
            planted_outputs,
        ),
    ]
}

/// `kept` is root's alone, with a secret and a patch; `tree` is the user's.
fn place() -> Result<Place, Failed> {
    let place = Place::new();
    fs::create_dir(place.at("kept"))?;
    for (name, text) in [("secret", SECRET), ("etcd0.json", "{}\n"), ("server.key", SECRET)] {
        fs::write(place.at("kept").join(name), text)?;
        fs::set_permissions(place.at("kept").join(name), fs::Permissions::from_mode(0o600))?;
    }
    fs::set_permissions(place.at("kept"), fs::Permissions::from_mode(0o700))?;
    Ok(place)
}

fn user() -> UserFact {
    UserFact { uid: ID, gid: ID, ..UserFact::default() }
}

/// A directory or file of the user's.
fn theirs(path: PathBuf, text: Option<&str>) -> Result<PathBuf, Failed> {
    match text {
        Some(text) => fs::write(&path, text)?,
        None => fs::create_dir(&path)?,
    }
    chown(&path, Some(ID), Some(ID))?;
    Ok(path)
}

fn is_link<T: std::fmt::Debug>(result: Result<T, Error>, path: &Path) -> Result<(), Failed> {
    let said = format!("{result:?}");
    let named = matches!(result, Err(Error::Enter(enter::Error::Link { path: named })) if named == path);
    check(named && !said.contains("secret\\n"), &said)
}

fn is_foreign<T: std::fmt::Debug>(result: Result<T, Error>) -> Result<(), Failed> {
    let said = format!("{result:?}");
    println!("{said}");
    let foreign = matches!(&result, Err(Error::Enter(enter::Error::Foreign { uid: ID, reason, .. }))
        if reason.ends_with("Permission denied (os error 13)"));
    check(foreign, &said)
}

/// `--patches /etc/kubernetes/patches`, and in it `x.txt -> /root/.ssh/id_ed25519`.
fn planted_patch() -> Result<(), Failed> {
    let place = place()?;
    let patches = theirs(place.at("tree/patches"), None)?;
    theirs(patches.join("etcd0.json"), Some("{}\n"))?;
    let read = || probe::patches(&patches, Author::Root, &user());
    check(read()?.len() == 1, "a plain patch of the user's is read")?;
    symlink(place.at("kept/secret"), patches.join("x.txt"))?;
    is_link(read(), &patches.join("x.txt"))?;
    // And the directory itself.
    symlink(place.at("kept"), place.at("tree/all"))?;
    is_link(probe::patches(&place.at("tree/all"), Author::Root, &user()), &place.at("tree/all"))
}

fn planted_config() -> Result<(), Failed> {
    let place = place()?;
    let planted = place.at("tree/kubeadm.yaml");
    symlink(place.at("kept/secret"), &planted)?;
    is_link(probe::document(&planted), &planted)?;
    symlink(place.at("kept"), place.at("tree/dir"))?;
    is_link(probe::document(&place.at("tree/dir/secret")), &place.at("tree/dir/secret"))?;
    // A link of root's that the user may put another in the place of.
    std::os::unix::fs::lchown(&planted, Some(0), Some(0))?;
    is_link(probe::document(&planted), &planted)
}

/// The way out of `kept` and back into it leads through the user's hands.
fn by_a_detour() -> Result<(), Failed> {
    let place = place()?;
    symlink(place.at("kept/secret"), place.at("tree/kubeadm.yaml"))?;
    symlink(place.at("tree/kubeadm.yaml"), place.at("kept/kubeadm.yaml"))?;
    is_link(probe::document(&place.at("kept/kubeadm.yaml")), &place.at("kept/kubeadm.yaml"))?;
    let argument = read_argument(&place.at("kept/kubeadm.yaml"));
    check(matches!(argument, Err(enter::Error::Link { .. })), "an argument is read by the same way")
}

fn kept_ways() -> Result<(), Failed> {
    let place = place()?;
    symlink("secret", place.at("kept/link.yaml"))?;
    symlink("kept", place.at("short"))?;
    check(probe::document(&place.at("short/link.yaml"))? == SECRET, "links of root's")?;
    symlink("../short/etcd0.json", place.at("kept/etcd1.json"))?;
    symlink("nowhere", place.at("kept/etcd2.json"))?;
    let patches = probe::patches(&place.at("short"), Author::Root, &user())?;
    let names: Vec<&str> = patches.iter().map(|(name, _)| name.as_str()).collect();
    let found = ["etcd0.json", "etcd1.json", "link.yaml", "secret", "server.key"];
    check(names == found, &format!("{names:?}"))?;
    let plain = theirs(place.at("tree/kubeadm.yaml"), Some("kind: X\n"))?;
    symlink(&plain, place.at("kept/theirs.yaml"))?;
    for path in [&plain, &place.at("kept/theirs.yaml"), &place.at("kept/../tree/kubeadm.yaml")] {
        check(probe::document(path)? == "kind: X\n", "a plain file of the user's")?;
    }
    fs::remove_file(place.at("kept/link.yaml"))?;
    symlink("link.yaml", place.at("kept/link.yaml"))?;
    check(probe::document(&place.at("kept/link.yaml")).is_err(), "a circle ends")
}

fn authors() -> Result<(), Failed> {
    let place = place()?;
    let author = |path: &Path| probe::authored(path).map(|(_, author)| author);
    let (roots, above) = (place.at("kept/secret"), place.at("tree/roots.yaml"));
    let plain = theirs(place.at("tree/kubeadm.yaml"), Some("kind: X\n"))?;
    check(author(&roots)? == Author::Root, "root's")?;
    check(author(&plain)? == Author::Others, "the user's")?;
    fs::write(&above, "kind: X\n")?;
    check(author(&above)? == Author::Others, "root's, where the user may put another")?;
    theirs(place.at("kept/theirs.yaml"), Some("kind: X\n"))?;
    check(author(&place.at("kept/theirs.yaml"))? == Author::Others, "the user's, in a place of root's")?;
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o620))?;
    check(author(&roots)? == Author::Others, "a group may write it")?;
    // What the caller's shell hands over: a pipe of its own, a file, a here-document.
    let own = |file: &dyn AsRawFd| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let (reader, mut writer) = std::io::pipe()?;
    writer.write_all(b"kind: X\n")?;
    drop(writer);
    check(read_argument(&own(&reader))? == (b"kind: X\n".to_vec(), Author::Root), "a pipe")?;
    check(read_argument(&own(&File::open(&plain)?))?.1 == Author::Others, "the user's file as input")?;
    let mut gone = tempfile::tempfile()?;
    gone.write_all(b"kind: X\n")?;
    gone.rewind()?;
    check(read_argument(&own(&gone))? == (b"kind: X\n".to_vec(), Author::Root), "a here-document")
}

/// `patches.directory: /root/.ssh`, `discovery.file.kubeConfigPath: /root/…`.
fn named_inside() -> Result<(), Failed> {
    let place = place()?;
    is_foreign(probe::patches(&place.at("kept"), Author::Others, &user()))?;
    is_foreign(probe::document_of(&place.at("kept/secret"), Author::Others, &user()))?;
    let patches = theirs(place.at("tree/patches"), None)?;
    theirs(patches.join("etcd0.json"), Some("{}\n"))?;
    let read = |author| probe::patches(&patches, author, &user());
    check(read(Author::Others)? == [("etcd0.json".to_owned(), "{}\n".to_owned())], "what he can read")?;
    symlink(place.at("kept/secret"), patches.join("x.json"))?;
    check(read(Author::Others).is_err(), "nor by a link")?;
    // Root's own word counts as before.
    check(probe::patches(&place.at("kept"), Author::Root, &user())?.len() == 3, "root's word")?;
    check(probe::document_of(&place.at("kept/secret"), Author::Root, &user())? == SECRET, "root's word")
}

/// The unit's runtime directory, in which copies are made.
struct Shared;

impl Shared {
    fn new() -> Result<Self, Failed> {
        check(!Path::new("/run/u7s").exists(), "/run/u7s is there: a node runs on this machine")?;
        theirs("/run/u7s".into(), None)?;
        Ok(Self)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all("/run/u7s");
    }
}

fn copied_inside() -> Result<(), Failed> {
    let (place, _shared) = (place()?, Shared::new()?);
    let mut entry = Entry::on_host(ID, ID, ["/bin/true"]);
    let none = place.at("none");
    is_foreign(entry.copied(&place.at("kept"), Author::Others, &none).map_err(Error::from))?;
    let patches = theirs(place.at("tree/patches"), None)?;
    theirs(patches.join("etcd0.json"), Some("{}\n"))?;
    let ours = place.at("kept/etcd~u7s+merge.json");
    fs::write(ours, "ours")?;
    let both = entry.copied(&patches, Author::Others, &place.at("kept"))?.ok_or("no copy")?;
    let mut names: Vec<_> = fs::read_dir(&both)?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    check(names == ["etcd0.json", "etcd~u7s+merge.json"], &format!("{names:?}"))?;
    check(entry.copied(&place.at("kept"), Author::Root, &none)?.is_some(), "root's word")
}

/// `--cert-dir DIR`, and in it `etcd -> /etc/ssl/private`.
fn planted_etcd() -> Result<(), Failed> {
    let (place, _shared) = (place()?, Shared::new()?);
    let pki = theirs(place.at("tree/pki"), None)?;
    theirs(pki.join("ca.key"), Some("his\n"))?;
    symlink(place.at("kept"), pki.join("etcd"))?;
    let seen = || -> Result<String, Failed> {
        let path = pki.display().to_string();
        let script =
            "cd \"$1\" && for file in *.key etcd/*; do test -f $file && echo $file && cat $file; done; true";
        let mut entry = Entry::on_host(ID, ID, ["/bin/sh", "-c", script, "sh", &path]);
        entry.output_directory(4, "", (&pki, Kept::Certificates))?;
        Ok(String::from_utf8(entry.output(Output::Capture(1000)).run()?.stdout)?)
    };
    let given = seen()?;
    check(given == "ca.key\nhis\n", &given)?;
    fs::remove_file(pki.join("etcd"))?;
    let etcd = theirs(pki.join("etcd"), None)?;
    theirs(etcd.join("server.key"), Some("his too\n"))?;
    let given = seen()?;
    check(given == "ca.key\nhis\netcd/server.key\nhis too\n", &given)
}

/// A kubeadm of the node's user's: a name that other programs of the host read, a mode that lends rights, a pipe.
fn planted_outputs() -> Result<(), Failed> {
    let (place, _shared) = (place()?, Shared::new()?);
    let target = place.at("kept/conf.d");
    fs::create_dir(&target)?;
    let run = |script: &str| {
        let path = target.display().to_string();
        let mut entry = Entry::on_host(ID, ID, ["/bin/sh", "-c", script, "sh", &path]);
        entry.output_directory(4, "", (&target, Kept::Certificates))?;
        entry.output(Output::Capture(1000)).run()
    };
    run(
        "cd \"$1\"; echo evil > 00-evil.conf; echo evil > evil.crt; echo evil > admin.conf; mkdir etcd; echo c > ca.crt; \
         echo k > etcd/ca.key; chmod 6777 *.conf *.crt etcd/ca.key",
    )?;
    let mode = |name: &str| fs::metadata(target.join(name)).map(|seen| seen.mode() & 0o7777).ok();
    check((mode("ca.crt"), mode("etcd/ca.key")) == (Some(0o644), Some(0o600)), "kubeadm's modes")?;
    let mut names: Vec<_> = fs::read_dir(&target)?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    check(names == ["ca.crt", "etcd"], &format!("{names:?}"))
}
