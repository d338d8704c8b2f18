use super::*;

#[test]
fn an_identity_is_read_as_it_was_written() {
    let generation = Generation {
        number: 3,
        digest: 0x1234_5678_9abc_def0,
        traffics: vec![
            (0, "do_peer".to_owned()),
            (2, "a".repeat(NAME)),
            (15, "last".to_owned()),
        ],
    };
    let bytes = identity_of(&generation);
    assert_eq!(bytes.len(), IDENTITY_SIZE);
    assert_eq!(bytes[..8], generation.digest.to_ne_bytes());
    assert_eq!(names_from(&bytes[8..]), generation.traffics);
}

#[test]
fn a_namespace_has_a_folder_of_its_own() {
    let path = folder(Path::new("/bpf"), 4_026_531_840, Some(7));
    assert_eq!(path, Path::new("/bpf/peerwatch/v1/netns-4026531840-7"));
    let pins = Pins { folder: path };
    assert_eq!(pins.namespace(), Some(4_026_531_840));
    let path = folder(Path::new("/bpf"), 5, None);
    assert_eq!(Pins { folder: path }.namespace(), Some(5));
}

#[test]
fn nothing_is_pinned_outside_of_a_bpf_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let error = Pins::open(folder.path(), 1, None).unwrap_err().to_string();
    assert!(error.contains("is no BPF file system"), "{error}");
    assert!(Pins::find(folder.path(), 1, None).is_none());
    assert!(Pins::all(folder.path()).is_empty());
}

#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("mine");
    own(&mine).unwrap();
    own(&mine).unwrap();
    let open = folder.path().join("open");
    DirBuilder::new().mode(0o700).create(&open).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&open, mode).unwrap();
    let error = own(&open).unwrap_err().to_string();
    assert!(error.contains("others may write to it"), "{error}");
    std::os::unix::fs::symlink(&mine, folder.path().join("link")).unwrap();
    assert!(own(&folder.path().join("link")).is_err());
}

/// What `all`, `find` and `remove` go by, in any file system.
#[test]
fn no_symbolic_link_leads_out_of_the_mount() {
    let mount = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let precious = elsewhere.path().join("netns-1-2/links/precious");
    fs::create_dir_all(precious.parent().unwrap()).unwrap();
    fs::write(&precious, "").unwrap();
    let top = mount.path().join(FOLDER);
    own(&top).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), top.join("v1")).unwrap();
    let pins = Pins {
        folder: top.join("v1/netns-1-2"),
    };
    assert!(pins.opened().is_err());
    assert!(pins.remove().is_err());
    assert!(pins.forget(1).is_err());
    fs::remove_file(top.join("v1")).unwrap();
    own(&top.join("v1")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("netns-1-2"), top.join("v1/netns-1-2"))
        .unwrap();
    assert!(pins.opened().is_err());
    assert!(pins.remove().is_err());
    fs::remove_file(top.join("v1/netns-1-2")).unwrap();
    own(&pins.folder).unwrap();
    // A link inside is removed, and not followed.
    std::os::unix::fs::symlink(elsewhere.path(), pins.folder.join(LINKS)).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), pins.folder.join("1")).unwrap();
    own(&pins.folder.join("2")).unwrap();
    fs::write(pins.folder.join("2/map_A"), "").unwrap();
    pins.remove().unwrap();
    assert!(!top.exists(), "empty folders go as well");
    assert!(precious.exists());
}

#[test]
fn a_folder_that_others_may_write_to_is_not_removed() {
    let mount = tempfile::tempdir().unwrap();
    let pins = Pins {
        folder: mount.path().join("peerwatch/v1/netns-1"),
    };
    fs::create_dir_all(&pins.folder).unwrap();
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(mount.path().join("peerwatch/v1"), mode(0o777)).unwrap();
    let error = pins.remove().unwrap_err().to_string();
    assert!(error.contains("netns-1: "), "{error}");
    fs::set_permissions(mount.path().join("peerwatch/v1"), mode(0o755)).unwrap();
    pins.remove().unwrap();
}
