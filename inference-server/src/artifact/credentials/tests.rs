use super::*;

/// Files of a Secret: names and contents.
type Files = &'static [(&'static str, &'static str)];

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn read(uri: &str, files: &[(&str, &str)]) -> Result<Credentials, String> {
    let folder = folder(files);
    Credentials::read(folder.path(), &uri.parse().unwrap()).map_err(|error| error.to_string())
}

const WEB: &str = "https://host/a";
const S3: &str = "s3://bucket/a";
const GOOGLE: &str = "gs://bucket/a";
const AZURE: &str = "az://account/box/a";

#[test]
fn each_kind_of_place_has_its_files() {
    let bearer = read(WEB, &[("token", "abc\n"), ("username", "u"), ("password", "p")]);
    assert!(matches!(bearer, Ok(Credentials::Bearer(token)) if token == "abc"));
    let basic = read(WEB, &[("username", "u"), ("password", "p\r\n")]);
    assert!(
        matches!(basic, Ok(Credentials::Basic { username, password }) if username == "u" && password == "p")
    );

    let files =
        [("accessKeyId", "id"), ("secretAccessKey", "s"), ("sessionToken", "t"), ("region", "eu-west-1")];
    let Ok(Credentials::S3(keys)) = read(S3, &files) else { panic!("no keys") };
    assert_eq!(keys.key, Some(("id".to_owned(), "s".to_owned())));
    assert_eq!(
        (keys.session_token.as_deref(), keys.region.as_deref(), &keys.endpoint),
        (Some("t"), Some("eu-west-1"), &None)
    );
    let public = read(S3, &[("endpoint", "http://minio:9000\n")]);
    assert!(
        matches!(public, Ok(Credentials::S3(keys)) if keys.key.is_none() && keys.endpoint.as_deref() == Some("http://minio:9000"))
    );

    // A key of Google's has many lines.
    let google = read(GOOGLE, &[("serviceAccount", "{\n  \"private_key\": \"k\"\n}\n")]);
    assert!(matches!(google, Ok(Credentials::Google(account)) if account.ends_with('}')));

    let azure = read(AZURE, &[("sasToken", "sv=1&sig=2")]);
    assert!(
        matches!(azure, Ok(Credentials::Azure { key: Some(AzureKey::Sas(sas)), endpoint: None }) if sas == "sv=1&sig=2")
    );
    let azure = read(AZURE, &[("accountKey", "a2V5"), ("endpoint", "https://host")]);
    assert!(matches!(azure, Ok(Credentials::Azure { key: Some(AzureKey::Account(_)), endpoint: Some(_) })));
}

#[test]
fn what_is_missing_or_unusable_is_named_without_its_content() {
    let cases: [(&str, Files, &str); 12] = [
        (WEB, &[("username", "hunter2")], "neither a file `token`"),
        (WEB, &[("token", "")], "token cannot be used"),
        (WEB, &[("token", "\n")], "token cannot be used"),
        (WEB, &[("token", "two\nlines-hunter2")], "token cannot be used"),
        (S3, &[("token", "hunter2")], "no files `accessKeyId`"),
        (S3, &[("accessKeyId", "hunter2")], "only one"),
        (S3, &[("secretAccessKey", "hunter2"), ("region", "r")], "only one"),
        (S3, &[("endpoint", "hunter2")], "endpoint cannot be used"),
        (S3, &[("endpoint", "https://u:hunter2@host")], "endpoint cannot be used"),
        (GOOGLE, &[("token", "hunter2")], "no file `serviceAccount`"),
        (AZURE, &[("token", "hunter2")], "neither a file `accountKey`"),
        (AZURE, &[("endpoint", "file:///hunter2")], "endpoint cannot be used"),
    ];
    for (uri, files, part) in cases {
        let message = read(uri, files).unwrap_err();
        assert!(message.contains(part) && !message.contains("hunter2"), "{message}");
    }
}

#[test]
fn credentials_have_no_text_form() {
    for (uri, files) in [
        (WEB, &[("token", "hunter2")][..]),
        (WEB, &[("username", "hunter2"), ("password", "hunter2")]),
        (S3, &[("accessKeyId", "hunter2"), ("secretAccessKey", "hunter2")]),
        (GOOGLE, &[("serviceAccount", "hunter2")]),
        (AZURE, &[("accountKey", "hunter2")]),
    ] {
        let text = format!("{:?}", read(uri, files).unwrap());
        assert!(!text.contains("hunter2"), "{text}");
    }
}
