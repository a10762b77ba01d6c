# dev/check-deploy lays this beside deploy/aws/job for a plan: a provider that asks nobody.

provider "aws" {
  access_key                  = "none"
  secret_key                  = "none"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}
