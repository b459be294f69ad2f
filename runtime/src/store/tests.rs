use super::*;

async fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("store")).await.unwrap();
    (directory, store)
}

#[tokio::test]
async fn one_of_many_creates_wins_and_the_others_see_its_bytes() {
    let (_directory, store) = store().await;
    for round in 0..20 {
        let name = format!("folder/{round}.json");
        let tries = (0..8).map(|writer| store.create(&name, format!("writer {writer}")));
        let outcomes = futures::future::try_join_all(tries).await.unwrap();
        let there = store.get(&name).await.unwrap().unwrap();
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Created::New).count(), 1);
        assert!(outcomes.iter().all(|outcome| match outcome {
            Created::New => true,
            Created::Taken(bytes) => *bytes == there,
        }));
    }
}

#[tokio::test]
async fn lists_objects_in_order_and_hides_what_a_crash_left() {
    let (directory, store) = store().await;
    for name in ["folder/b", "folder/a", "other/c"] {
        store.create(name, name.to_owned()).await.unwrap();
    }
    std::fs::write(directory.path().join("store/folder/.staged-1-1"), b"half").unwrap();
    assert_eq!(store.list("folder").await.unwrap(), ["folder/a", "folder/b"]);
    assert_eq!(store.list("absent").await.unwrap(), Vec::<String>::new());
    assert_eq!(store.get("folder/absent").await.unwrap(), None);
}

#[tokio::test]
async fn replaces_a_pointer_whole() {
    let (_directory, store) = store().await;
    store.replace("roots/latest.json", "one").await.unwrap();
    store.replace("roots/latest.json", "two").await.unwrap();
    assert_eq!(store.get("roots/latest.json").await.unwrap().unwrap(), "two");
}

#[tokio::test]
async fn refuses_names_that_would_leave_the_store() {
    let (_directory, store) = store().await;
    for name in ["", "/etc/passwd", "a/../b", "a//b", "A", "a b", ".staged-x"] {
        assert!(matches!(store.create(name, "x").await, Err(StoreError::Name(_))), "{name}");
    }
}

#[tokio::test]
async fn a_content_addressed_object_is_created_once_and_found_again() {
    let (_directory, store) = store().await;
    store.create_same("objects/1.json", "same").await.unwrap();
    store.create_same("objects/1.json", "same").await.unwrap();
    assert!(store.create_same("objects/1.json", "other").await.is_err());
}

#[tokio::test]
async fn names_a_bad_directory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Store::open(file.path().join("store")).await.unwrap_err().to_string();
    assert!(error.contains(&*file.path().to_string_lossy()), "{error}");
}
